package command

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/text/currency"
)

// amount is a price as people type it.
var amount = regexp.MustCompile(`^(\d{1,9})(?:[.,](\d+))?$`)

// minorUnits reads a price into the smallest unit of its currency.
func minorUnits(price, code string) (int64, error) {
	digits, err := digitsOf(code)
	if err != nil {
		return 0, err
	}
	found := amount.FindStringSubmatch(price)
	if found == nil || len(found[2]) > digits {
		return 0, usagef("--price: %q is no amount of %s: write it as 1250 or with %d digits behind the point", price, code, digits)
	}
	return strconv.ParseInt(found[1]+found[2]+strings.Repeat("0", digits-len(found[2])), 10, 64)
}

// money is an amount of the smallest unit as people read it.
func money(units int64, code string) string {
	digits, err := digitsOf(code)
	if err != nil {
		digits = 0 // as it came
	}
	sign := ""
	if units < 0 {
		sign, units = "-", -units
	}
	text := fmt.Sprintf("%0*d", digits+1, units)
	if digits > 0 {
		text = text[:len(text)-digits] + "." + text[len(text)-digits:]
	}
	return strings.TrimSpace(sign + text + " " + code)
}

// digitsOf is how many digits a currency has behind the point.
func digitsOf(code string) (int, error) {
	unit, err := currency.ParseISO(code)
	if err != nil {
		return 0, usagef("--currency: %q is no currency: write it as EUR", code)
	}
	digits, _ := currency.Standard.Rounding(unit)
	return digits, nil
}

// millionths reads a share in percent: 0.5, 1, 0.5%.
func millionths(flag, text string) (int32, error) {
	const digits = 4 // of a percent
	found := amount.FindStringSubmatch(strings.TrimSpace(strings.TrimSuffix(text, "%")))
	if found == nil || len(found[2]) > digits {
		return 0, usagef("--%s: %q is no share in percent: write it as 0.5", flag, text)
	}
	n, err := strconv.ParseInt(found[1]+found[2]+strings.Repeat("0", digits-len(found[2])), 10, 32)
	if err != nil || n > 1_000_000 {
		return 0, usagef("--%s: %q is more than all", flag, text)
	}
	return int32(n), nil
}
