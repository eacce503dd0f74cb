package main

import "os/exec"

func opener(file string) *exec.Cmd {
	return exec.Command("rundll32.exe", "url.dll,FileProtocolHandler", file)
}
