"""Data sets from nothing, from the web and from other formats, all ending as COCO folders."""
