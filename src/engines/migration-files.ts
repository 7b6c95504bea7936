import { readdirSync, readFileSync } from 'node:fs'
import type { SqlEngine } from '../adapters/adapter.ts'

export interface MigrationFile {
  readonly name: string
  readonly text: string
}

/**
 * What stands in migrations/, oldest first. The build replaces this module by one that has the texts in it (build.ts), since an
 * application that is bundled has its code elsewhere.
 */
export function migrationFiles(engine: SqlEngine): readonly MigrationFile[] {
  const folder = new URL(`../../migrations/${engine}/`, import.meta.url)
  return readdirSync(folder)
    .filter((file) => file.endsWith('.sql'))
    .sort()
    .map((file) => ({ name: file.slice(0, -'.sql'.length), text: readFileSync(new URL(file, folder), 'utf8') }))
}
