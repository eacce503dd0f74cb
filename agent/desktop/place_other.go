//go:build !linux

package desktop

// systemSeat is what is known of a seat on this system alone: nothing, its number says all.
type systemSeat struct{}
