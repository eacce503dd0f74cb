// Package identity says who there is: accounts, their logins and groups, and the keys with which
// programs call.
//
// Words: an account is the company or person that owns all else; a login is a named person in one
// account; a group is a set of logins; a privilege is what an administrator gives to a login; an
// administrator is a login that is enabled and has the privilege; an API key lets a program call
// in the name of a login.
//
//	account.go, login.go, group.go, apikey.go   what decides: pure aggregates
//	manager.go, managerapi.go                   the same for Managers, with their API
//	managerwatch.go                             who of them may connect, from the log itself
//	name.go                                     names that are unique, as reservations
//	enrollmenttoken.go, …api.go                 tokens for which a site's Manager admits agents
//	agentadmission.go, …api.go                  which agents are kept out, or may enrol again
//	admissions.go                               tells Managers of both, from the log itself
//	sites.go                                    hears what Managers tell: their site's authority, uses of tokens, up to where they follow
//	commands.go                                 load, decide, append: several aggregates at once
//	words.go                                    names of people, sealed per login
//	projection.go                               events → tables
//	queries.go                                  tables → answers
//	forget.go                                   what is left of a deleted login is destroyed, its key last
//	mail.go                                     tells people by mail what happens to their logins, once an event
//	reportmail.go                               sends the mails of saved reports that metering asks for: addresses stay here
//	external.go                                 which login is whose, of people that an identity provider vouches for (package sso)
//	maintenance.go                              tells administrators when Cetrus cannot be used
//	provisioned.go                              which logins and groups an identity provider keeps by SCIM (package scim)
//	orders.go                                   what an operator may ask of a service that runs
//	directory.go                                what signin, which lets people in, asks of it
//	api.go                                      gRPC ↔ domain
//
// Streams: reads EVENTS (context identity); writes
// ev.<p>.<account>.identity.{account,login,group,apikey,manager,enrollmenttoken,agent}.<id>, and ev.<p>.<account>.identity.name.<hash>,
// of accounts' names and Managers' ids under the account of zeros; publishes admission.<p>.<account> into POLICY. Hears site.<p>.<account>.<manager>, and listens, for operators, to ops.identity.>, and for metering to inner.mail.report.
// What of this NATS lets it do is the row identity of platform/natsserver/roles.go.
// Tables: those of migrations/, built from the log, and those of secrets/, which are kept beside it and
// cannot be built again: they belong into every backup.
//
// Several processes of this service may run at once. One keeps the tables (projection.Shares), and another takes over;
// commands meet in the log's expectations. Mails and what is to be forgotten go to one of them for each event, by durable consumers;
// orders, key uses and mails of reports to one, by queue groups; what Managers tell of their sites all hear, and the
// aggregate takes it once; whom Managers admit all tell, and whoever has read further prevails; signing keys are made
// under a lock of the database. Nothing that one process alone knows is asked of another.
//
// Names, display names and mail addresses stand sealed in the log and in the tables, under the
// key of the login (of the account, for its name) in platform/keyring: lists go by age, since nothing that is
// sealed can be sorted by. A group's name stands in clear.
//
// Unfinished: of a login that was forgotten the log keeps keyed hashes, of
// its name and of what an identity provider calls its person; the tables are built anew only when a release changes
// them, not by an order; an API key does not tell when it was last used.
package identity
