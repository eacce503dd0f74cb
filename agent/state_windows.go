package agent

// syncDir does nothing: Windows makes a rename durable by itself, and does not
// sync directories.
func syncDir(string) error { return nil }

// lockDir does nothing yet: the Windows agent is not finished, and the service
// manager starts one at a time.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }

// socketAddress is the path itself.
func socketAddress(path string) (address string, release func(), err error) {
	return path, func() {}, nil
}
