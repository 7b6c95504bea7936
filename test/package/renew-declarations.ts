import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { declarations, golden } from './declarations.ts'

await writeFile(golden, await declarations(fileURLToPath(new URL('../../dist', import.meta.url))))
