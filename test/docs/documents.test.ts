import { existsSync, readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { describe, expect, it } from 'vitest'
import { EXPORTS, FRAMEWORKS } from '../public-interface.ts'
import { anchorsOf, documents, proseOf, root, textOf } from './markdown.ts'

const files = await documents()

describe.each(files)('%s', (document) => {
  it('has links that lead somewhere', () => {
    const text = proseOf(document)
    const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g), ...text.matchAll(/^\[[^\]]+\]: (\S+)$/gm)]
    const broken = targets
      .map(([, target]) => target!)
      .filter((target) => !/^https?:/.test(target) && !leadsSomewhere(document, target))
    expect(broken).toEqual([])
  })

  it('names files that are there', () => {
    const named = [...textOf(document).matchAll(NAMED)].map(([path]) => path)
    expect([...new Set(named)].filter((path) => !isThere(path))).toEqual([])
  })

  it('has lines of at most 120 characters, but for tables', () => {
    const long = textOf(document)
      .split('\n')
      .flatMap((line, index) => (line.length > 120 && !line.startsWith('|') ? [`${document}:${index + 1}`] : []))
    expect(long).toEqual([])
  })
})

/** Files and folders, also those of src by what comes after that. */
const NAMED =
  /(?<![\w./-])(?:(?:src|test|bench|migrations|examples)\/[\w./-]*\w|(?:cli|api|process|engines|adapters|protocol|base)\/[\w./-]*\.ts)/g

function leadsSomewhere(document: string, target: string): boolean {
  const [path, anchor] = target.split('#')
  const file = path === '' ? document : normalize(join(dirname(document), path!))
  return existsSync(join(root, file)) && (anchor === undefined || anchorsOf(file).includes(anchor))
}

/** Tests may be named without what their files end in. */
function isThere(path: string): boolean {
  const paths = [path, `${path}.ts`, `${path}.test.ts`, `${path}.node24.test.ts`, `src/${path}`]
  return paths.some((each) => existsSync(join(root, each)))
}

it.each(['README.md', 'docs/adapters.md'])('%s has every adapter', (document) => {
  const subpaths = Object.keys(EXPORTS).filter((subpath) => subpath !== '.' && !FRAMEWORKS.includes(subpath))
  const missing = subpaths.filter((subpath) => !textOf(document).includes(`| \`rowlock/${subpath.slice(2)}\` |`))
  expect(missing).toEqual([])
})

it('docs/architecture.md names every file in which it is decided who gets a lock', async () => {
  const sources = (await Promise.all(['src', 'migrations'].map(filesIn))).flat()
  const marked = sources.filter((file) => readFileSync(join(root, file), 'utf8').includes('WHO GETS THE LOCK'))
  expect(marked.length).toBeGreaterThan(4)
  expect(marked.filter((file) => !textOf('docs/architecture.md').includes(file))).toEqual([])
})

async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(join(root, folder), { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name).slice(root.length))
}

it('docs/decisions.md has its decisions numbered', () => {
  const numbers = [...proseOf('docs/decisions.md').matchAll(/^## (\d+)?/gm)].map(([, number]) => Number(number))
  expect(numbers).toEqual(numbers.map((_, index) => index + 1))
})
