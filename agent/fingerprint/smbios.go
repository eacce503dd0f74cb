package fingerprint

import (
	"encoding/binary"
	"fmt"
)

// smbiosUUID finds the machine's UUID in what GetSystemFirmwareTable gives: eight bytes of
// its own, then structures of SMBIOS, each with strings that end with two zeros. Empty:
// there is none.
func smbiosUUID(table []byte) string {
	const own, systemInformation, uuidAt, end = 8, 1, 8, 127
	if len(table) < own {
		return ""
	}
	for b := table[own:]; len(b) >= 4; {
		kind, length := b[0], int(b[1])
		if length < 4 || length > len(b) || kind == end {
			return ""
		}
		if kind == systemInformation && length >= uuidAt+16 {
			u := b[uuidAt:]
			return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(u), binary.LittleEndian.Uint16(u[4:]), binary.LittleEndian.Uint16(u[6:]), u[8:10], u[10:16])
		}
		b = b[length:]
		for len(b) >= 2 && (b[0] != 0 || b[1] != 0) {
			b = b[1:]
		}
		if len(b) < 2 {
			return ""
		}
		b = b[2:]
	}
	return ""
}
