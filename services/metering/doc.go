// Package metering says who used what, for how long, and with how many at once.
//
// Words: an application is what an account meters; an instance is one run of it
// in one desktop session; a document is a file or window inside an instance; a
// cell is a quarter-hour of UTC in which time by attention is added up; a
// roll-up is the same over an hour, a day and 16 days.
//
// It decides on applications and settings, which are events, and builds all else
// from what agents observed:
//
//	application.go, settings.go   what an account meters and how: pure aggregates
//	expense.go                    what people are asked about projects: another one
//	expensenames.go               the names of people in it, sealed
//	principal.go                  whose a principal is: an aggregate each
//	retention.go                 what is removed since it is too old, and from when on answers are
//	merged.go                     principals that count as one person
//	commands.go                   load, decide, append
//	cells.go, zone.go             quarter-hours, roll-up levels, days of a zone: pure
//	persontime.go, concurrency.go unions and sweeps: pure
//	replay.go                     demand for any time after which licences are given back: pure
//	projection.go                 events → tables
//	filter.go, places.go          whose use is asked for; groups and sites, as they are now
//	queries.go, listing.go        tables → answers
//	report.go                     what all reports know before they read
//	demandreport.go, rankreport.go, unusedreport.go, idlereport.go, timeline.go, sessions.go,
//	distribution.go, quality.go   tables → answers of reports
//	forecastreport.go             what will be wanted, by the package forecast
//	reporttable.go, reporttables.go, exportapi.go
//	                              reports → files (written by the package export)
//	turns.go                      whose export is next: by account
//	keptfile.go                   files that are made while nobody waits, and who makes each: rows with a claim
//	keptfilerun.go, keptfileapi.go
//	                              they are made, told of and given
//	savedreport.go                a saved report, its schedule and its runs: a pure aggregate
//	duetime.go                    when a schedule is due, and periods that move on: pure
//	savedreportapi.go             the same for gRPC, and events → tables of them
//	savedreportrun.go             what is due is decided, made and sent; a reactor
//	accountuse.go                 what many did together, for who sees nobody's use
//	compare.go                    the period that a report is compared with
//	used.go                       use of a period, day by day
//	daytimes.go                   time by person, machine and application: of days from memory, else from cells
//	demandday.go                  a day of demand, and days put together: pure
//	memory.go, readings.go        what was read and made of it, for the next question
//	preparedday.go                a day's use as bytes: pure
//	prepared.go                   which days have such bytes, and who makes them
//	live.go                       who has what open now, in memory
//	sightings.go, dryrun.go       what agents saw, in memory, and rules tried on it
//	seenprograms.go               what of it no application claims, by name
//	fleet.go                      how agents are doing, as Managers tell
//	plain.go, aside.go            what is not stored and comes from Managers, and what of it is wrong
//	views.go                      one build of the tables, and building anew beside it
//	orders.go                     what an operator may ask of a service that runs
//	reactor.go                    the policy that agents get
//	api.go, expenseapi.go         gRPC ↔ domain
//	viewing.go                    who looked at the use of named people
//	principalapi.go               the same of principals, and what people see of themselves
//
// Streams: reads EVENTS (context metering, and of identity which accounts it has made, who is in which group, and how groups and
// sites are called) and AGENT; writes
// ev.<p>.<account>.metering.catalog.<account>,
// ev.<p>.<account>.metering.settings.<account>,
// ev.<p>.<account>.metering.expense.<account>, of agents that were removed
// ev.<p>.<account>.metering.agent.<agent>, of people ev.<p>.<account>.metering.principal.<principal>
// and ev.<p>.<account>.metering.correction.<correction>, and of who looked at named use
// ev.<p>.<account>.metering.view.<login, or the account for a bare key>, of what was removed by age
// ev.<p>.<account>.metering.retention.<account>, of saved reports ev.<p>.<account>.metering.savedreport.<id>; asks
// identity on inner.mail.report to send mails of them; publishes the policy of an account
// to POLICY; listens to live.>, seen.>, health.> and, for operators,
// ops.metering.>; asks Managers on ask.sightings and ask.health, and tells them on conflict.<p>.<account> of epochs with
// two contents. Tables: those of migrations/, secrets/ and files/, in schemas of this service
// alone.
//
// What of this NATS lets it do is the row metering of platform/natsserver/roles.go.
//
// Several processes of this service share the partitions of the log (projection.Shares, of each build of the
// tables): who holds an account's counts its use, keeps its applications and settings, prepares its days and removes
// what is too old of it, all through Runner.Do, which refuses who does not hold it. What any process may do, one
// does at a time, for these reasons:
//
//	policies, runs of saved reports   a durable consumer that all share, one event for one of them
//	schedules                         a decision in the log for each due time, under its expectation
//	files                             the claim in their row
//	rebuild                           projection.Claim; it takes all partitions of the former tables at its end
//	replay of the quarantine          Runner.Everywhere: the others begin again behind it
//	states of agents                  none: all hear them and write them, and the later word stays
//
// Only what is provisional, or made of what the tables hold, lies in memory of each process: sessions that are
// open now, Managers' states, sightings, what was set aside beside the log, days that were read. Whoever waits for a position
// waits for the checkpoint of its account's partition, wherever that is moved.
//
// Unfinished: My data holds no project choices, which no table has. A login has at most one
// schedule for each saved report, and a report that could not be made is made anew for each attempt.
// A view of a group's use does not tell which group. Data quality does not tell why time is unknown, nor
// how late what came was: neither is added up. What is asked of today, of days
// that late data has just changed, by who sees only their own, and of documents in person time is read from
// the intervals, four million at most.
package metering
