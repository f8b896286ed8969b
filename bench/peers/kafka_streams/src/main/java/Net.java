import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;

/** The formula at the top of model/kinds/autoencoder/keras_network.py, by hand: float arrays, no allocation a record. One thread. */
final class Net {
  final String[] features;
  final float threshold;
  final String model;
  final String version;
  private final float clip;
  private final float limit;
  private final float bend;
  private final float[] mean;
  private final float[] spread;
  private final float[] residualSpread;
  private final float[] deviationSpread;
  private final float[][] cross; // [from][to]
  private final float[][][] kernels; // [layer][from][to]
  private final float[][] biases;
  private final boolean[] elu;
  private final float[][] layers; // scratch
  private final float[] scaled;
  private final float[] clipped;
  private final float[] correction;

  Net(String path) throws IOException {
    JsonNode json = new ObjectMapper().readTree(new File(path));
    features = new String[json.get("features").size()];
    for (int i = 0; i < features.length; i++) features[i] = json.get("features").get(i).asText();
    threshold = (float) json.get("threshold").asDouble();
    model = json.get("model").asText();
    version = json.get("version").asText();
    clip = (float) json.get("clip").asDouble();
    limit = (float) json.get("limit").asDouble();
    bend = (float) json.get("bend").asDouble();
    mean = vector(json.get("mean"));
    spread = vector(json.get("spread"));
    residualSpread = vector(json.get("residual_spread"));
    deviationSpread = vector(json.get("deviation_spread"));
    cross = matrix(json.get("cross"));
    int n = json.get("layers").size();
    kernels = new float[n][][];
    biases = new float[n][];
    elu = new boolean[n];
    layers = new float[n][];
    for (int i = 0; i < n; i++) {
      JsonNode layer = json.get("layers").get(i);
      kernels[i] = matrix(layer.get("kernel"));
      biases[i] = vector(layer.get("bias"));
      elu[i] = layer.get("elu").asBoolean();
      layers[i] = new float[biases[i].length];
    }
    scaled = new float[features.length];
    clipped = new float[features.length];
    correction = new float[features.length];
  }

  private static float[] vector(JsonNode node) {
    float[] out = new float[node.size()];
    for (int i = 0; i < out.length; i++) out[i] = (float) node.get(i).asDouble();
    return out;
  }

  private static float[][] matrix(JsonNode node) {
    float[][] out = new float[node.size()][];
    for (int i = 0; i < out.length; i++) out[i] = vector(node.get(i));
    return out;
  }

  private float bound(float value, float to) {
    return Math.max(-to, Math.min(to, value));
  }

  /** Adds x times each row of the kernel: the inner loop is over neighbouring outputs, which the JIT vectorises. */
  private static void multiply(float[] x, float[][] kernel, float[] out) {
    for (int from = 0; from < x.length; from++) {
      float value = x[from];
      float[] row = kernel[from];
      for (int to = 0; to < out.length; to++) out[to] += value * row[to];
    }
  }

  float score(float[] x) {
    for (int i = 0; i < x.length; i++) {
      float z = (x[i] - mean[i]) / spread[i], t = Math.abs(z) / bend;
      scaled[i] = bend * Math.copySign((float) Math.log(t + Math.sqrt(t * t + 1)), z);
      clipped[i] = bound(scaled[i], clip);
    }
    float[] y = clipped;
    for (int l = 0; l < layers.length; l++) {
      float[] out = layers[l];
      System.arraycopy(biases[l], 0, out, 0, out.length);
      multiply(y, kernels[l], out);
      if (elu[l]) {
        for (int i = 0; i < out.length; i++) if (out[i] < 0) out[i] = (float) Math.expm1(out[i]);
      }
      y = out;
    }
    for (int i = 0; i < x.length; i++) {
      float residual = (scaled[i] - y[i]) * spread[i] / residualSpread[i];
      y[i] = residual;
      clipped[i] = bound(residual, clip);
    }
    java.util.Arrays.fill(correction, 0f);
    multiply(clipped, cross, correction);
    float sum = 0;
    for (int i = 0; i < x.length; i++) {
      float deviation = bound((y[i] + correction[i]) / deviationSpread[i], limit);
      float error = deviation * deviation;
      sum += error * error;
    }
    return (float) Math.sqrt(sum / x.length);
  }
}
