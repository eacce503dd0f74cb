//go:build !linux

package postgres

import (
	"errors"
	"os"
	"syscall"
)

// A private server is started on Linux only; elsewhere name an existing one by
// its URL.
var errLinuxOnly = errors.New("postgres: a private server is started on Linux only: give the URL of an existing one")

type identity struct{ name string }

func memoryBytes() int64 { return 0 }

func identityFor(string) (identity, error) { return identity{}, errLinuxOnly }

func (identity) attributes(bool) *syscall.SysProcAttr { return nil }
func (identity) own(string) error                     { return errLinuxOnly }
func (identity) reaches(string) bool                  { return false }

func lock(string) (*os.File, error) { return nil, errLinuxOnly }
func serves(int, string) bool       { return false }
