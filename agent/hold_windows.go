package agent

// Windows has no documented call that suspends a process: launches are not held there yet,
// and the prompt does not wait.
func suspend(int32) {}

func resume(int32) {}
