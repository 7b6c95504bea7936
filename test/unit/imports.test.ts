import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const source = fileURLToPath(new URL('../../src', import.meta.url))

type Imports = ReadonlyMap<string, readonly string[]>

/** What each file imports or exports of others, types too. */
async function importsIn(directory: string): Promise<Imports> {
  const files = (await readdir(directory, { recursive: true })).filter((file) => file.endsWith('.ts'))
  const entries = files.map(async (file): Promise<[string, string[]]> => {
    const text = await readFile(join(directory, file), 'utf8')
    const found = [...text.matchAll(/(?:from|import)[\s(]*'(\.[^']+)'/g)]
    return [file, found.map(([, path]) => relative(directory, join(directory, dirname(file), path!)))]
  })
  return new Map(await Promise.all(entries))
}

/** Each way that leads back to where it began. */
function circlesIn(imports: Imports): string[] {
  const circles: string[] = []
  const done = new Set<string>()
  const visit = (file: string, way: readonly string[]): void => {
    const start = way.indexOf(file)
    if (start >= 0) circles.push([...way.slice(start), file].join(' > '))
    if (start >= 0 || done.has(file)) return
    for (const imported of imports.get(file) ?? []) visit(imported, [...way, file])
    done.add(file)
  }
  for (const file of imports.keys()) visit(file, [])
  return circles
}

describe('the files of src', () => {
  it('import each other in no circle, types included', async () => {
    const imports = await importsIn(source)
    expect(imports.size).toBeGreaterThan(50)
    expect(circlesIn(imports)).toEqual([])
  })

  it('have a circle if one of them imports what leads back to it', async () => {
    const imports = new Map(await importsIn(source))
    imports.set('base/errors.ts', ['api/locks.ts'])
    expect(circlesIn(imports)).not.toEqual([])
  })

  it('are all where an import says that they are', async () => {
    const imports = await importsIn(source)
    const missing = [...imports].flatMap(([file, imported]) =>
      imported.filter((each) => !imports.has(each)).map((each) => `${file}: ${each}`),
    )
    expect(missing).toEqual([])
  })

  it('import their own folder, and those below it', async () => {
    const imports = await importsIn(source)
    const upward = [...imports].flatMap(([file, imported]) =>
      imported.filter((each) => layerOf(each) > layerOf(file)).map((each) => `${file}: ${each}`),
    )
    expect(upward).toEqual([])
  })
})

/** From the bottom to the top. What users import, an adapter, comes with what it needs of the layers below. */
const LAYERS = ['base', 'protocol', 'adapters', 'engines', 'process', 'api', 'index.ts', 'frameworks', 'cli']

function layerOf(file: string): number {
  const layer = LAYERS.indexOf(file.split('/')[0]!)
  if (layer === -1) throw new Error(`${file} is in no layer`)
  return layer
}
