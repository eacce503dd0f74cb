// Package ctl tries cetrusctl as people use it: the real binary in a real terminal, against a real
// platform with people at work. One platform serves all of it.
package ctl
