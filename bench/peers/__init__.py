"""What Highbeam is measured against, each written as its own documentation recommends."""
