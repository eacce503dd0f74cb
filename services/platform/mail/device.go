package mail

import "strings"

// families of browsers and systems by what their user agents hold, the telling one first:
// Edge says that it is Chrome, and Chrome that it is Safari.
var (
	browsers = [...][2]string{
		{"Edg", "Edge"},
		{"OPR/", "Opera"},
		{"Firefox/", "Firefox"},
		{"Chrome/", "Chrome"},
		{"Chromium/", "Chromium"},
		{"Safari/", "Safari"},
		{"curl/", "curl"},
		{"grpc", "a gRPC client"},
		{"python", "a Python program"},
		{"Go-http-client", "a Go program"},
	}
	systems = [...][2]string{
		{"Windows", "Windows"}, {"Android", "Android"}, {"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Mac OS X", "macOS"}, {"CrOS", "ChromeOS"}, {"Linux", "Linux"},
	}
)

// Device says in known words what a user agent says. Its own words are whatever the
// stranger wrote whom the mail is about, and could be a message to its reader.
func Device(userAgent string) string {
	browser, system := first(browsers[:], userAgent), first(systems[:], userAgent)
	switch {
	case browser == "" && system == "":
		return ""
	case browser == "":
		return "an unknown program on " + system
	case system == "":
		return browser
	}
	return browser + " on " + system
}

func first(families [][2]string, userAgent string) string {
	for _, f := range families {
		if strings.Contains(userAgent, f[0]) {
			return f[1]
		}
	}
	return ""
}
