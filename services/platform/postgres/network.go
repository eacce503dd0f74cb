package postgres

import (
	"database/sql/driver"
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
	// database/sql says ErrBadConn where it has given up to connect anew by itself.
	if errors.As(err, &netErr) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	// pgx says this without a type.
	return strings.Contains(err.Error(), "conn closed")
}
