# The small base image of the tests: a static busybox and nothing else.
FROM scratch
ADD busybox.tar /
CMD ["sh"]
