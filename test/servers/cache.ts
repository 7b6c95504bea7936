import { existsSync, rmSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'

const cacheDirectory = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'rowlock')

/**
 * The directory `key` of the cache, filled by `fill` if it is not there yet. It appears whole or not at all: it is filled
 * beside its place and then renamed.
 */
export async function cached(
  key: string,
  description: string,
  fill: (directory: string) => Promise<void>,
): Promise<string> {
  const directory = join(cacheDirectory, key)
  if (!existsSync(directory)) await step(description, () => fillAside(directory, fill))
  return directory
}

/** Tells that something slow goes on, and how long it took. */
export async function step<T>(description: string, work: () => Promise<T>): Promise<T> {
  const start = performance.now()
  console.log(`preparing ${description} ...`)
  const result = await work()
  console.log(`prepared ${description} in ${((performance.now() - start) / 1000).toFixed(1)} s`)
  return result
}

async function fillAside(directory: string, fill: (directory: string) => Promise<void>): Promise<void> {
  await mkdir(dirname(directory), { recursive: true })
  await removeAbandonedDrafts(directory)
  const draft = await mkdtemp(`${directory}.draft-`)
  const removeDraft = () => rmSync(draft, { recursive: true, force: true, maxRetries: 3 })
  process.once('exit', removeDraft)
  try {
    await fill(draft)
    await chmod(draft, 0o755)
    await rename(draft, directory)
  } catch (error) {
    const filledByAnother = existsSync(directory)
    if (!filledByAnother) throw error
  } finally {
    await rm(draft, { recursive: true, force: true, maxRetries: 3 })
    process.off('exit', removeDraft)
  }
}

/** A run that was killed could not remove its draft; one that is still at work is younger than an hour. */
async function removeAbandonedDrafts(directory: string): Promise<void> {
  for (const entry of await readdir(dirname(directory))) {
    if (!entry.startsWith(`${basename(directory)}.draft-`)) continue
    const draft = join(dirname(directory), entry)
    const age = Date.now() - (await stat(draft)).mtimeMs
    if (age > 3_600_000) await rm(draft, { recursive: true, force: true })
  }
}
