// Package firm is Harbour Engineering, a firm of more than 300 that does not exist: three
// sites, departments, joiners and leavers, projects with deadlines, holidays, licences that
// nobody uses, two forgotten servers. It says who there is, what runs on their machines and
// what happens at each desk; package desks plays that through real agents.
//
// What happens on a day follows from the seed, the person and the date alone, so that a
// past that is cut into stretches, or loaded again, is the same day for day.
//
// Unlike package company, which generates the events of many people for tests and benches,
// it is played at desks, by agents.
//
// Unfinished: what is open on the forgotten servers closes where the past ends and opens
// again at each start, so that Now shows it since then; Idle and Sessions show the months.
//
// What a buyer is to find in the reports stands in the README, "What you will see"; most
// of it has a test in firm_test.go.
package firm
