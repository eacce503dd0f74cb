// Package rest calls Cetrus's API over HTTP as a browser would, behind the generated gRPC clients:
// a Conn is a grpc.ClientConnInterface that reads from the contract's own annotations how each
// method stands in REST. So it needs one port that speaks HTTP, passes every proxy that lets a
// browser through, and knows no method by name: one that is added to the contract can be called.
//
// It is the mirror of grpc-gateway: what a path, a query or a body carries there is written here.
// Errors come back as gRPC statuses with their details; what kept the question from being asked or
// answered at all is an *UnreachableError or a *ForeignError.
package rest
