// Package authz judges whether a caller may call a method. Who may is said by the method
// itself, in the contract: its option cetrus.authz.v1.authorization. This package reads
// the option ([Of]), refuses one that says nothing or contradicts itself, and applies it
// ([Rule.Admit]); rpc and the gateway ask it before anything of a request is looked at.
//
// How far a caller sees stands in the [authn.Caller] then. The rows themselves are kept by
// PostgreSQL (package postgres), which reads it from there.
//
// Nothing is known here of gRPC, HTTP, or any service's methods.
package authz
