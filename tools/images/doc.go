// Package images makes the container images that are released: one of the platform, one of the
// Manager, each for several processors, from nothing but the program.
//
// It needs no daemon and no registry: an image is put together as files and written as an OCI
// image layout in one tar, which `ctr images import`, `podman load`, `docker load` (from 25 on) and
// `skopeo copy oci-archive:` take. From the same commit and the same Go it comes out the same, byte for
// byte, so that anybody can build it again and compare the digest.
//
// It may run Go and the pinned maker of bills of materials, and reads the module cache; it touches
// no network of its own.
package images
