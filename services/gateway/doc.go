// Package gateway is the platform's one door for programs: REST under /v1, made
// from the contract by grpc-gateway; its OpenAPI 3 document at /openapi.json, a
// page to read and try it at /docs/, and /healthz and /readyz for whoever runs it.
//
// What REST adds to gRPC stands here and nowhere else: who may call a method
// is judged before a body is read, unknown query parameters are refused by name, enum
// values may be written short (group_by=application), every error is a
// google.rpc.Status, and server streams come as lines of JSON or as server-sent
// events. All of it is derived from the descriptors, so a new method needs no code
// here but the registration of its service. Beside it stands one page for people, to choose a
// password on, where mailed links lead and no console is.
//
// Two addresses are for browsers instead, which begin and end a single sign-on there (sso.go):
// they redirect and keep a cookie, which no method of the contract does. Where the console began one,
// the console ends it. What begins with /scim/v2
// is passed on to identity as it is (scim.go), with errors as SCIM has them. Every other path is the
// web console's, where there is one.
//
// The gateway holds no data and knows no domain. It reads and writes no stream
// and owns no table.
package gateway
