// The modules whose .proto files ours import. Nothing here is compiled, so do
// not tidy it: `tools/bootstrap.sh generate` copies the files out of the module
// cache into .cache/proto.
module github.com/cetrus/cetrus/tools/pin/protos

go 1.26.0

require (
	github.com/bufbuild/protovalidate v1.2.2
	github.com/google/gnostic v0.7.1
)
