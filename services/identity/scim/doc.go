// Package scim lets an account's identity provider keep its logins and groups by SCIM 2.0
// (RFC 7643, RFC 7644). It is a part of identity: what it decides on, it asks of [Directory].
//
//	settings.go   what an administrator allows: a pure aggregate, ev.<p>.<account>.identity.provisioning.<account>
//	resource.go   users and groups as SCIM shows them
//	schema.go     what there is: schemas, resource types, what is supported
//	filter.go     filters, judged on what is shown
//	change.go     what requests make of a user or group: POST and PUT, and the dialects of PATCH
//	handle.go     one request of SCIM → its answer
//	api.go        gRPC ↔ domain
//
// A SCIM user is a login that the provider keeps; a SCIM group is a group of the account that it
// keeps. Logins that administrators have made are none of it, unless they allow link_logins. What
// the provider's groups give is said by mappings, and by nothing else that comes with a request: a
// login that has more than they could give keeps its name and its mail address, so that whoever
// finds the provider's key cannot have a new password sent to themselves (ADR 042).
//
// Filters and paths are parsed by scim2/filter-parser. What is read, changed and answered is compared
// with implementations that Cetrus did not write (foreign_test.go; docs/scim.md has what is meant to
// be other). Requests that change something are answered
// one after another for each account within this process; the log itself decides between
// processes, a change of a group's members one login at a time.
//
// Unfinished: there is no /Bulk, /Me, /.search and no sorting; ETags of groups are compared before
// a change and not within it, so two processes may both find the same one current; a person has one
// mail address, other kinds than work are not kept; of the standard attributes only those of
// schema.go are kept, the others are taken and dropped.
package scim
