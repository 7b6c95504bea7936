import { writeFile } from 'node:fs/promises'
import { engines, fileOf, golden } from './golden.ts'

for (const engine of engines) await writeFile(fileOf(engine), await golden(engine))
