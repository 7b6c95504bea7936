import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

export const golden = new URL('public-api.d.ts', import.meta.url)

/** All that TypeScript reads of the package: its public types, and what they are made of. */
export async function declarations(dist: string): Promise<string> {
  const folder = join(dist, 'node')
  const files = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith('.d.cts')).sort()
  const texts = files.map(async (file) => `// ${file}\n\n${await readFile(join(folder, file), 'utf8')}`)
  return (await Promise.all(texts)).join('\n')
}
