// Package history keeps what was seen of a run in one file that only grows, and judges
// it: whether anything was lost, counted twice, put in another order, or came back that
// had ended or never was.
//
//	fact.go   what is seen, a line of JSON each
//	file.go   the file
//	check.go  the judgement
//
// Facts are told by those who saw them: the agents what they journalled, who stands
// between agents and Manager what was acknowledged, a reader of the log what was
// published, a client of the API what was counted. The judgement believes no part of
// the product.
//
// It may touch its file and nothing else.
package history
