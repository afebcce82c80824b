"""Trained models as things that one uses: what their files say, loading, predicting, handing on.

A run writes its model with a description of itself (`about`, `files`). Who has the file can load it
(`load`), ask it about pictures and volumes (`pictures`, `volumes`), and hand it on (`onnx_file`,
`card`).
"""
