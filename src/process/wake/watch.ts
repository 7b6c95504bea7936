import { statSync, watch } from 'node:fs'
import { basename, dirname } from 'node:path'

export interface Watch {
  close(): void
}

/**
 * Calls `onChange` after each change of the file's access time, which need not exist yet, nor stay the same file. Only a
 * hint: some file systems tell of no changes.
 *
 * A database writes its files, and the system tells of that, well before others can see what was committed. So writes are
 * no news here; who commits sets the access time afterwards (see `hint` in engines/sqlite/file.ts).
 *
 * While nobody is `wanted` to know, the file is not looked at, and the first change of any kind after that is told.
 */
export function watchFile(path: string, wanted: () => boolean, onChange: () => void): Watch {
  const name = basename(path)
  let accessed = accessTime(path)
  // A file that is replaced would not be watched any more; its folder stays.
  const watcher = watch(dirname(path), { persistent: false }, (_, changed) => {
    if ((changed !== null && changed !== name) || !wanted()) return
    const before = accessed
    accessed = accessTime(path)
    if (accessed !== before) onChange()
  })
  watcher.on('error', () => watcher.close())
  return watcher
}

function accessTime(path: string): bigint | undefined {
  return statSync(path, { bigint: true, throwIfNoEntry: false })?.atimeNs
}
