// Package rpc is the one gRPC server that every service of the platform is
// served by. What must happen around each call, in which order, stands in one
// list, [steps]; the mapping from kinds of errors to gRPC status in one function,
// [Status]; who may call a method in the contract, which package authz reads. A service
// adds its handlers and thinks of none of them.
//
// It may know gRPC, validation and telemetry, and nothing of any domain.
package rpc
