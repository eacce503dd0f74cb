// Package forecast tells how high a daily figure, such as the most licences wanted at once on
// each day, will be in the days to come, and how far that can be trusted.
//
// It looks back before it looks ahead: a few plain models forecast each past period from what
// came before it, the one whose forecasts of the period's peak were nearest is taken, and how
// wrong it was then is how uncertain it is called now. So the bounds are not a claim about a
// distribution but quantiles of errors that were made. What no model knows (a hiring, a
// holiday, a new version) is in none of them.
//
// The package knows nothing of licences, zones or storage; it uses gonum for its algebra.
package forecast
