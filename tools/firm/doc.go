// Package firm is Harbour Engineering, a firm of more than 300 that does not exist: three
// sites, departments, joiners and leavers, projects with deadlines, holidays, licences that
// nobody uses, two forgotten servers. It says who there is, what runs on their machines and
// what happens at each desk; package desks plays that through real agents.
//
// What happens on a day follows from the seed, the person and the date alone, so that a
// past that is cut into stretches, or loaded again, is the same day for day.
//
// What a buyer is to find in the reports stands in the README, "What you will see"; each
// of these has a test in firm_test.go.
package firm
