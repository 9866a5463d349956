# The frontend of the demos that reaches for what it was not given.
FROM scratch
ADD reaching.tar /
ENTRYPOINT ["/reaching"]
