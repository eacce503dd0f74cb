package fingerprint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// Read reads the traits of this machine. What cannot be read is left out.
func Read() Traits {
	t := make(Traits)
	for trait, read := range map[Trait]func() ([]string, error){
		System: firmwareUUID, Network: cards, Disks: disks, Generation: generation,
		Installation: machineGUID, Volume: volumeSerial, Name: computerName,
	} {
		if values, err := read(); err == nil {
			t[trait] = values
		}
	}
	return t.sound()
}

// firmwareUUID is the UUID of the SMBIOS table of type 1.
func firmwareUUID() ([]string, error) {
	const rawSMBIOS = 'R'<<24 | 'S'<<16 | 'M'<<8 | 'B'
	procedure := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetSystemFirmwareTable")
	if err := procedure.Find(); err != nil {
		return nil, err
	}
	size, _, err := procedure.Call(rawSMBIOS, 0, 0, 0)
	if size == 0 {
		return nil, err
	}
	table := make([]byte, size)
	read, _, err := procedure.Call(rawSMBIOS, 0, uintptr(unsafe.Pointer(&table[0])), size)
	if read == 0 || read > size {
		return nil, err
	}
	if uuid := smbiosUUID(table[:read]); uuid != "" {
		return []string{uuid}, nil
	}
	return nil, errors.New("fingerprint: the firmware tells no UUID")
}

func machineGUID() ([]string, error) {
	key, err := registry.OpenKey(registry.LOCAL_MACHINE, `SOFTWARE\Microsoft\Cryptography`, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	guid, _, err := key.GetStringValue("MachineGuid")
	return []string{guid}, err
}

func computerName() ([]string, error) {
	name, err := os.Hostname()
	return []string{name}, err
}

// volumeSerial is the serial number of the volume that Windows is on.
func volumeSerial() ([]string, error) {
	system, err := windows.GetWindowsDirectory()
	if err != nil {
		return nil, err
	}
	root, err := windows.UTF16PtrFromString(filepath.VolumeName(system) + `\`)
	if err != nil {
		return nil, err
	}
	var serial uint32
	if err := windows.GetVolumeInformation(root, nil, 0, &serial, nil, nil, nil, 0); err != nil {
		return nil, err
	}
	return []string{strconv.FormatUint(uint64(serial), 16)}, nil
}

// cards are the addresses of network cards. Addresses that software has given, as for a
// virtual switch or against being recognised, are marked as such, and left out.
func cards() (addresses []string, err error) {
	const ethernet, wireless, locallyGiven = 6, 71, 2
	size := uint32(16 << 10)
	for range 3 {
		room := make([]byte, size)
		list := (*windows.IpAdapterAddresses)(unsafe.Pointer(&room[0]))
		err = windows.GetAdaptersAddresses(windows.AF_UNSPEC, windows.GAA_FLAG_SKIP_UNICAST|windows.GAA_FLAG_SKIP_ANYCAST|windows.GAA_FLAG_SKIP_MULTICAST|windows.GAA_FLAG_SKIP_DNS_SERVER, 0, list, &size)
		if err == windows.ERROR_BUFFER_OVERFLOW { //nolint:errorlint // An Errno, as the call gives it.
			continue
		}
		if err != nil {
			return nil, err
		}
		for ; list != nil; list = list.Next {
			address := list.PhysicalAddress[:min(list.PhysicalAddressLength, uint32(len(list.PhysicalAddress)))]
			if list.IfType != ethernet && list.IfType != wireless || len(address) != 6 || address[0]&locallyGiven != 0 {
				continue
			}
			addresses = append(addresses, fmt.Sprintf("%x", address))
		}
		return addresses, nil
	}
	return nil, err
}

// generation is what a hypervisor says of how often this machine was put back or cloned.
func generation() ([]string, error) {
	const readCounter = 0x32<<16 | 1<<14 | 1<<2 // IOCTL_VMGENCOUNTER_READ
	var counter [16]byte
	if _, err := ask(`\\.\VmGenerationCounter`, windows.GENERIC_READ, readCounter, nil, counter[:]); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("%x", counter)}, nil
}

// maxDisks is how many disks are asked.
const maxDisks = 8

// disks are the serial numbers of disks that are not on a cable.
func disks() (serials []string, err error) {
	const queryProperty, busUSB = 0x2d1400, 7
	for n := range maxDisks {
		var query [12]byte // StorageDeviceProperty, PropertyStandardQuery
		answer := make([]byte, 4096)
		read, err := ask(`\\.\PhysicalDrive`+strconv.Itoa(n), 0, queryProperty, query[:], answer)
		if err != nil || read < 36 {
			continue
		}
		// STORAGE_DEVICE_DESCRIPTOR: the offset of the serial number, and the bus.
		at, removable, bus := binary.LittleEndian.Uint32(answer[24:]), answer[10] != 0, binary.LittleEndian.Uint32(answer[28:])
		if at == 0 || at >= read || removable || bus == busUSB {
			continue
		}
		text, _, _ := strings.Cut(string(answer[at:read]), "\x00")
		serials = append(serials, text)
	}
	return serials, nil
}

// ask puts a question to a device.
func ask(device string, access, code uint32, question, answer []byte) (read uint32, err error) {
	name, err := windows.UTF16PtrFromString(device)
	if err != nil {
		return 0, err
	}
	handle, err := windows.CreateFile(name, access, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	var in *byte
	if len(question) > 0 {
		in = &question[0]
	}
	err = windows.DeviceIoControl(handle, code, in, uint32(len(question)), &answer[0], uint32(len(answer)), &read, nil)
	return read, err
}
