//go:build unix

package main

import "os/exec"

func opener(file string) *exec.Cmd { return exec.Command("xdg-open", file) }
