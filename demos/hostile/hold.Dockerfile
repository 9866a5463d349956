# Keeps the client in its conversation with the builder for as long as somebody looks at it.
ARG BASE
FROM ${BASE}
RUN echo holding the line && sleep 1200
