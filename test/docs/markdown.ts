import { readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

/** All documents that people write; docs/benchmarks.md is written by `npm run bench`. */
export async function documents(): Promise<string[]> {
  const docs = (await readdir(`${root}docs`)).filter((file) => file.endsWith('.md') && file !== 'benchmarks.md')
  return ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', ...docs.sort().map((file) => `docs/${file}`)]
}

export function textOf(document: string): string {
  return readFileSync(`${root}${document}`, 'utf8')
}

/** Without blocks of code, which have a syntax of their own. Lines keep their numbers. */
export function proseOf(document: string): string {
  return textOf(document).replace(/^```.*?^```$/gms, (block) => block.replace(/.+/g, ''))
}

/** The anchors of a document's headings, as GitHub makes them. */
export function anchorsOf(document: string): string[] {
  return [...proseOf(document).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )
}

export interface Snippet {
  readonly document: string
  /** Where the code begins, counted from 1. */
  readonly line: number
  readonly code: string
}

/** Blocks of TypeScript. */
export function snippetsOf(document: string): Snippet[] {
  const text = textOf(document)
  return [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(({ 1: code, index }) => ({
    document,
    line: text.slice(0, index).split('\n').length + 1,
    code: code!,
  }))
}
