# The base image of builds that compile something: Debian with a C compiler.
FROM scratch
ADD debian.tar /
CMD ["bash"]
