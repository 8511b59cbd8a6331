// Says of each signature whether fanlight.go takes it; see ../../signatures.mjs.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"example.com/backend/fanlight"
)

func main() {
	for words := os.Args[1:]; len(words) > 0; words = words[4:] {
		header := http.Header{}
		header.Set("webhook-id", "msg_1")
		header.Set("webhook-timestamp", words[0])
		header.Set("webhook-signature", words[1])
		seconds, err := strconv.ParseInt(words[3], 10, 64)
		if err != nil {
			panic(err)
		}
		if _, err := fanlight.WebhookKey(words[2]); err != nil {
			fmt.Print("refused: ", err, " ")
		}
		// Refuses by itself too.
		fmt.Println(fanlight.Verify(header, []byte("{}"), words[2], time.Unix(seconds, 0)) == nil)
	}
}
