"""The SVG picture of a network, without a drawing library.

Read `svg` (text and shapes), `picture` (which boxes, frames and lines a network needs), then `layout` (their places).
Layout libraries such as grandalf, fast-sugiyama and Graphviz' dot place boxes well, but none of them also does what
makes these pictures readable: lines that end at given points of a box, blocks within blocks, and lines that run
straight down or across and share a track.
"""
