// Package resource is what methods on resources have in common, whatever the service: ids, field
// masks, pages, and the command that a request is. It knows protobuf messages and the log's
// commands, nothing of gRPC or tables.
package resource
