package enrollment

import (
	"regexp"
	"strings"
)

// WebSocketPath is where, behind the origin that people reach, Managers reach the platform's NATS.
const WebSocketPath = "/nats"

// DefaultPort is where agents reach a Manager that says nothing else.
const DefaultPort = "10041"

// Install is how something is installed on one kind of system: a text to paste there.
type Install struct {
	System string
	// How is what to know first, in a sentence.
	How string
	// Text is what is pasted.
	Text string
}

// hostname is what may stand in a command that somebody pastes into a shell.
var hostname = regexp.MustCompile(`^[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$`)

// IsHost tells of a host name, with a port or without, that may stand in a command.
func IsHost(text string) bool { return hostname.MatchString(text) }

// ManagerAddress is a Manager's address for agents, with the port where that is not said; ok is false
// where it is none.
func ManagerAddress(text string) (address string, ok bool) {
	if !IsHost(text) {
		return "", false
	}
	if !strings.Contains(text, ":") {
		text += ":" + DefaultPort
	}
	return text, true
}

// InstallAgent is how agents are installed that a token admits to the Manager at an address, which
// ManagerAddress has given.
func InstallAgent(address, token string) []Install {
	linux := `printf 'manager: [` + address + `]\n' | sudo tee -a /etc/cetrus/agent.yaml
printf '%s' '` + token + `' | sudo cetrus-agent enroll
sudo systemctl restart cetrus-agent
sudo cetrus-agent status`
	return []Install{
		{"Windows, PowerShell", "As administrator, beside the MSI. It goes to the agent's folder, and stands in no log.", "$msi = (Get-Item .\\cetrus-agent_*_x64.msi).FullName\nStart-Process msiexec -Wait -ArgumentList \"/i `\"$msi`\" /qn MANAGER=" + address + " ENROLLMENT_TOKEN=" + token + "\""},
		{"Windows, for software distribution", "With the file's own name.", "msiexec /i cetrus-agent_1.2.3_x64.msi /qn /norestart MANAGER=" + address + " ENROLLMENT_TOKEN=" + token},
		{"Debian, Ubuntu", "Beside the package, in a shell.", "sudo apt-get install ./cetrus-agent_*_amd64.deb\n" + linux},
		{"RHEL, SUSE", "Beside the package, in a shell.", "sudo rpm -i ./cetrus-agent_*_x86_64.rpm\n" + linux},
	}
}

// InstallManager is how a Manager is installed that a token admits to the platform at an origin, as
// https://cetrus.example.com, whose host IsHost.
func InstallManager(platform, token string) []Install {
	forward := "wss://" + strings.TrimPrefix(platform, "https://") + WebSocketPath
	if plain, ok := strings.CutPrefix(platform, "http://"); ok { // of this machine
		host, _, _ := strings.Cut(plain, ":")
		forward = "nats://" + host + ":4222"
	}
	enrol := `printf '%s' '` + token + `' | sudo -u cetrus-manager cetrus-manager enroll --api ` + platform + `
printf 'agents_address: 0.0.0.0:10041\nplatform_url: ` + forward + `\n' | sudo tee -a /etc/cetrus/manager.yaml
sudo systemctl enable --now cetrus-manager
sudo cetrus-manager status`
	return []Install{
		{"Debian, Ubuntu", "Beside the package, in a shell.", "sudo apt-get install ./cetrus-manager_*_amd64.deb\n" + enrol},
		{"RHEL, SUSE", "Beside the package, in a shell.", "sudo rpm -i ./cetrus-manager_*_x86_64.rpm\n" + enrol},
	}
}
