"""What a release is made and judged with:

a bill of materials, an audit, and which pins are behind (docs/releasing.md).
"""
