package contract

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxManagers is how many addresses of Managers an agent can be told.
const MaxManagers = 16

// CheckAddress says what is wrong with an address of a Manager.
func CheckAddress(address string) error {
	at := max(0, strings.LastIndexByte(address, ':'))
	host, port := address[:at], strings.TrimPrefix(address[at:], ":")
	if v6, bracketed := strings.CutPrefix(host, "["); bracketed {
		host = strings.TrimSuffix(v6, "]")
		if host == v6 {
			host = ""
		}
	} else if strings.ContainsRune(host, ':') {
		host = ""
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if host == "" || err != nil || number == 0 || len(address) > 255 || strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || strings.ContainsRune("/@[]", c) }) {
		return fmt.Errorf("%q is no host:port; Managers listen on port 10041", address)
	}
	return nil
}
