import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;

/** Reads lines of [writer, reader], JSON, and prints Avro's verdict on each: COMPATIBLE, INCOMPATIBLE or INVALID. */
class Verdicts {
  public static void main(String[] args) throws Exception {
    ObjectMapper json = new ObjectMapper();
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      JsonNode pair = json.readTree(line);
      try {
        Schema writer = new Schema.Parser().parse(pair.get(0).toString());
        Schema reader = new Schema.Parser().parse(pair.get(1).toString());
        System.out.println(SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getType());
      } catch (Exception error) {
        System.err.println(error.getMessage());
        System.out.println("INVALID");
      }
    }
  }
}
