package fingerprint

import (
	"os"
	"path/filepath"
	"strings"
)

// Read reads the traits of this machine. What cannot be read is left out.
func Read() Traits { return readTree("/") }

// readTree reads them from a tree of files, which a test may make.
func readTree(root string) Traits {
	t := Traits{
		System:       first(root, "sys/class/dmi/id/product_uuid", "sys/hypervisor/uuid", "proc/device-tree/serial-number"),
		Instance:     first(root, "run/cloud-init/.instance-id", "var/lib/cloud/data/instance-id"),
		Network:      cards(filepath.Join(root, "sys/class/net")),
		Disks:        disks(filepath.Join(root, "sys/block")),
		Installation: first(root, "etc/machine-id"),
		Name:         first(root, "proc/sys/kernel/hostname"),
	}
	return t.sound()
}

// first is what the first file says that can be read and says something.
func first(root string, names ...string) []string {
	for _, name := range names {
		if text := say(filepath.Join(root, name)); text != "" {
			return []string{text}
		}
	}
	return nil
}

func say(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.Trim(string(text), " \t\r\n\x00")
}

// cards are the addresses of network cards that are built in: neither made by software,
// nor on a cable, nor changed from what the card was made with.
func cards(dir string) (addresses []string) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, n := range names {
		card := filepath.Join(dir, n.Name())
		if !builtIn(card) || say(filepath.Join(card, "addr_assign_type")) != "0" {
			continue
		}
		addresses = append(addresses, say(filepath.Join(card, "address")))
	}
	return addresses
}

func disks(dir string) (serials []string) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, n := range names {
		disk := filepath.Join(dir, n.Name())
		if !builtIn(disk) || say(filepath.Join(disk, "removable")) == "1" {
			continue
		}
		serials = append(serials, first(disk, "serial", "device/serial", "wwid", "device/wwid")...)
	}
	return serials
}

// builtIn tells whether a device is one, and is not on a cable.
func builtIn(device string) bool {
	path, err := filepath.EvalSymlinks(filepath.Join(device, "device"))
	return err == nil && !strings.Contains(path, "/usb")
}
