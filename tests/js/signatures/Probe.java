import io.fanlight.Fanlight;
import java.time.Instant;

/** Says of each signature whether Fanlight.java takes it; see ../signatures.mjs. */
final class Probe {
    public static void main(String[] words) {
        for (int at = 0; at < words.length; at += 4) {
            var now = Instant.ofEpochSecond(Long.parseLong(words[at + 3]));
            try {
                System.out.println(
                    Fanlight.isGenuine("msg_1", words[at], words[at + 1], "{}".getBytes(), words[at + 2], now));
            } catch (IllegalArgumentException error) {
                System.out.println("refused: " + error.getMessage());
            }
        }
    }
}
