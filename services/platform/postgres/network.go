package postgres

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// isNetwork tells whether err is a connection's end rather than an answer.
func isNetwork(err error) bool {
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	// pgx says this without a type.
	return strings.Contains(err.Error(), "conn closed")
}
