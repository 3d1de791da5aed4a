# Two images from one file, each a static binary and nothing else:
#
#   docker build -t registry-sidecar .
#   docker build -t registry-server --target server .
#   docker build -t registry-server --target server --build-arg GUIDED=yes .
#
# The last takes twice the time and makes the server as fast as it gets (scripts/guided).
#
# BUILD_IMAGE needs cargo with its own linker (1.90 or later), a C compiler and the static archive of glibc 2.36 or
# later.
ARG BUILD_IMAGE=rust:1-slim-bookworm

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# A target that is named keeps the static flag away from build scripts and procedural macros.
ENV RUSTFLAGS="-C target-feature=+crt-static"

FROM build AS build-sidecar
RUN --mount=type=cache,target=/src/target,id=registry-sidecar-target \
    host="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="$(cat scripts/lean-flags)" \
    cargo build --locked --profile lean --no-default-features --target "$host" --bin registry-sidecar \
 && mkdir -p /out && cp "target/$host/lean/registry-sidecar" /out/

FROM build AS build-server
ARG GUIDED=no
RUN --mount=type=cache,target=/src/target,id=registry-server-target \
    host="$(rustc -vV | sed -n 's/^host: //p')" \
 && if [ "$GUIDED" = yes ]; then \
        if command -v rustup; then rustup component add llvm-tools; fi \
     && binary="$(scripts/guided)"; \
    else \
        cargo build --locked --profile dist --target "$host" --bin registry-server \
     && binary="target/$host/dist/registry-server"; \
    fi \
 && mkdir -p /out && cp "$binary" /out/

FROM scratch AS server
COPY --from=build-server /out/registry-server /registry-server
USER 65532:65532
EXPOSE 80 81 443
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/registry-server", "healthcheck"]
ENTRYPOINT ["/registry-server"]

FROM scratch AS sidecar
COPY --from=build-sidecar /out/registry-sidecar /registry-sidecar
USER 65532:65532
# As ready as the application; a registry that is away makes nobody unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/registry-sidecar", "healthcheck"]
ENTRYPOINT ["/registry-sidecar"]
