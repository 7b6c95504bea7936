import { readFile } from 'node:fs/promises'
import { expect, it } from 'vitest'
import { engines, fileOf, golden, NAMES } from './golden.ts'

it.each(engines.map((engine) => ({ engine, name: NAMES[engine] })))(
  'what $name gets is what test/sql/$engine.sql says; `npm run sql` writes it anew, after a change that is meant',
  async ({ engine }) => {
    expect(await golden(engine)).toBe(await readFile(fileOf(engine), 'utf8'))
  },
)
