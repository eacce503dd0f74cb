// Package period reads periods as people write them ("last-month", "7d", a first and a last day)
// into moments, in the account's time zone, where days have 23 or 25 hours twice a year.
package period
