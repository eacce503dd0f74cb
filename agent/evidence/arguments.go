package evidence

import (
	"net/url"
	"strings"
)

// maxArguments bounds what is looked at of a command line.
const maxArguments = 256

// pathsOf finds the paths among the arguments of a program, its own name left out.
// absolute makes a whole path of an argument; "" says that it cannot.
func pathsOf(arguments []string, absolute func(string) string) []string {
	if len(arguments) < 2 {
		return nil
	}
	arguments = arguments[1:min(len(arguments), maxArguments)]
	var paths []string
	for _, a := range arguments {
		if strings.HasPrefix(a, "-") {
			// --file=/home/ann/plan.odt
			_, value, found := strings.Cut(a, "=")
			if !found {
				continue
			}
			a = value
		}
		if rest, ok := cutPrefixFold(a, "file://"); ok {
			a = fromURL(rest)
		}
		if a == "" || strings.Contains(a, "://") {
			continue
		}
		if path := absolute(a); path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// fromURL is the path of a file URL, what comes behind the two slashes; a host stays.
func fromURL(rest string) string {
	path, err := url.PathUnescape(rest)
	if err != nil {
		return ""
	}
	// file:///C:/plan.docx
	if len(path) > 2 && path[0] == '/' && path[2] == ':' {
		return path[1:]
	}
	if !strings.HasPrefix(path, "/") {
		if rest, ok := cutPrefixFold(path, "localhost/"); ok {
			return "/" + rest
		}
		return "//" + path
	}
	return path
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return "", false
}
